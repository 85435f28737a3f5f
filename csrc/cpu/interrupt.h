// Ends a long kernel early if the program wants to stop: after Ctrl-C, for example.
//
// Kernels know no Python. The Python module registers two functions (awpf_interrupt_by): one that runs the program's
// signal handlers and says whether they raised an exception, and one that raises this exception here. Only the thread
// that called the operation asks, a few times a second; without the functions nothing is ever interrupted.
#pragma once

namespace awpf {

// Called at the beginning of every operation: short ones never ask.
void begin_call();
// Whether the operation is to stop. Cheap enough to be called for every task, on the thread that called the operation.
bool interrupt_wanted();
[[noreturn]] void raise_interrupt();

}  // namespace awpf
