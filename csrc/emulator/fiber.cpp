#include "emulator/fiber.h"

namespace awpf::emulator {

#if defined(__x86_64__)
extern "C" void awpf_emulator_switch(void** save, void* load);
asm(R"(
.text
.type awpf_emulator_switch, @function
awpf_emulator_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size awpf_emulator_switch, .-awpf_emulator_switch
)");

void switch_context(Context& from, Context& to) { awpf_emulator_switch(&from.stack_pointer, to.stack_pointer); }

void prepare_context(Context& context, char* stack, void (*entry)()) {
  void** top = reinterpret_cast<void**>(stack + kStackBytes);
  *--top = nullptr;  // aligns the stack of `entry` as after a call
  *--top = reinterpret_cast<void*>(entry);
  for (int r = 0; r < 6; ++r) *--top = nullptr;
  context.stack_pointer = top;
}
#else
void switch_context(Context& from, Context& to) { swapcontext(&from, &to); }

void prepare_context(Context& context, char* stack, void (*entry)()) {
  getcontext(&context);
  context.uc_stack.ss_sp = stack;
  context.uc_stack.ss_size = kStackBytes;
  context.uc_link = nullptr;
  makecontext(&context, entry, 0);
}
#endif

}  // namespace awpf::emulator
