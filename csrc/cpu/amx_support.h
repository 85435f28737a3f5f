// Whether this process may use the matrix tiles of AMX.
#pragma once

namespace awpf {

// Asks the operating system for the permission, which holds for all threads and for child processes. Null if AMX can be
// used, else the reason why not.
const char* why_no_amx();

}  // namespace awpf
