// Fibers: threads with stacks of their own that are switched explicitly.
#pragma once

#include <stddef.h>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace awpf::emulator {

constexpr size_t kStackBytes = 256 << 10;

#if defined(__x86_64__)
struct Context {
  void* stack_pointer = nullptr;
};
#else
using Context = ucontext_t;
#endif

void switch_context(Context& from, Context& to);

// When the context is switched to for the first time, it runs `entry`, which must not return.
void prepare_context(Context& context, char* stack, void (*entry)());

}  // namespace awpf::emulator
