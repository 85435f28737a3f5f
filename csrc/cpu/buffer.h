// Aligned, uninitialised memory.
#pragma once

#include <stdint.h>

#include <cstdlib>
#include <memory>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace awpf {

constexpr int64_t kAlignment = 64;
constexpr std::size_t kHugePage = std::size_t(2) << 20;

template <class T>
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(int64_t count) {
    if (count <= 0) return;
    // Large buffers ask for huge pages. Without them page faults and TLB misses take a tenth of the time of a product.
    std::size_t bytes = 0;
    if (__builtin_mul_overflow(std::size_t(count), sizeof(T), &bytes) || bytes > PTRDIFF_MAX) throw std::bad_alloc();
    const std::size_t alignment = bytes >= kHugePage ? kHugePage : kAlignment;
    bytes = (bytes + alignment - 1) / alignment * alignment;
    data_.reset(static_cast<T*>(std::aligned_alloc(alignment, bytes)));
    if (!data_) throw std::bad_alloc();
#if defined(__linux__)
    if (alignment == kHugePage) madvise(data_.get(), bytes, MADV_HUGEPAGE);  // a hint: failure is harmless
#endif
  }
  T* get() const { return data_.get(); }
  T& operator[](int64_t i) const { return data_.get()[i]; }

 private:
  struct Free {
    void operator()(T* p) const { std::free(p); }
  };
  std::unique_ptr<T, Free> data_;
};

}  // namespace awpf
