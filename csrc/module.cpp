// Facts about the build, for awpf_ext.build_info(), and how Ctrl-C reaches the CPU kernels (cpu/interrupt.h), which
// know no Python: _library.py hands the addresses of two functions here over to them.
#include <pybind11/pybind11.h>

#include <cstdint>

#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace {

// The Python error that a signal handler raised, until it is raised again. Guarded by the GIL.
#if PY_VERSION_HEX >= 0x030c0000
PyObject* raised = nullptr;

void keep_error() { Py_XSETREF(raised, PyErr_GetRaisedException()); }

void restore_error() {
  PyErr_SetRaisedException(raised);
  raised = nullptr;
}
#else
PyObject *raised = nullptr, *raised_value = nullptr, *raised_traceback = nullptr;

void keep_error() {
  Py_CLEAR(raised);
  Py_CLEAR(raised_value);
  Py_CLEAR(raised_traceback);
  PyErr_Fetch(&raised, &raised_value, &raised_traceback);
}

void restore_error() {
  PyErr_Restore(raised, raised_value, raised_traceback);
  raised = raised_value = raised_traceback = nullptr;
}
#endif

// Python's signal handlers run on the main thread only: others need not take the GIL to find out.
bool may_be_main_thread() {
#if defined(__linux__)
  return syscall(SYS_gettid) == getpid();
#else
  return true;
#endif
}

// Runs the handlers of pending signals; whether one raised an exception, which is kept.
bool interrupt_wanted() {
  if (!may_be_main_thread() || !Py_IsInitialized()) return false;
  const PyGILState_STATE state = PyGILState_Ensure();
  const bool wanted = PyErr_CheckSignals() != 0;
  if (wanted) keep_error();
  PyGILState_Release(state);
  return wanted;
}

// pybind11, through which torch calls operations, asks an exception of this base class to set the Python error.
struct Interrupted : pybind11::builtin_exception {
  using builtin_exception::builtin_exception;

  void set_error() const override {
    if (raised == nullptr) return PyErr_SetNone(PyExc_KeyboardInterrupt);
    restore_error();
  }
};

void raise_interrupt() { throw Interrupted("awpf_ext: interrupted"); }

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.attr("torch_version") = AWPF_TORCH_VERSION;
  m.attr("compiler") = AWPF_COMPILER;
  m.attr("instruction_sets") = AWPF_INSTRUCTION_SETS;
  m.attr("cuda_status") = AWPF_CUDA_STATUS;
  m.attr("cuda_version") = AWPF_CUDA_VERSION;
  m.attr("interrupt_wanted") = reinterpret_cast<std::uintptr_t>(&interrupt_wanted);
  m.attr("raise_interrupt") = reinterpret_cast<std::uintptr_t>(&raise_interrupt);
}
