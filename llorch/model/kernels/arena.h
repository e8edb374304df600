// Memory in huge pages: weights of a gigabyte would otherwise need a quarter of a million page table entries.
#pragma once
#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <new>

namespace llorch {

constexpr size_t HUGE_PAGE = size_t(2) << 20;

class Arena {  // zeroed memory in huge pages, taken from the front; pages come when they are first written
  public:
    explicit Arena(size_t size) : size_((size + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE) {
        void* at = mmap(nullptr, size_ + HUGE_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (at == MAP_FAILED) throw std::bad_alloc();
        mapped_ = static_cast<char*>(at);
        base_ = reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(at) + HUGE_PAGE - 1) & ~(HUGE_PAGE - 1));
        madvise(base_, size_, MADV_HUGEPAGE);
    }
    ~Arena() { munmap(mapped_, size_ + HUGE_PAGE); }
    Arena(const Arena&) = delete;

    template <class T>
    T* take(size_t count) {
        used_ = (used_ + 63) & ~size_t(63);
        T* result = reinterpret_cast<T*>(base_ + used_);
        used_ += count * sizeof(T);
        if (used_ > size_) throw std::bad_alloc();
        return result;
    }
    size_t used() const { return used_; }

  private:
    size_t size_, used_ = 0;
    char *mapped_, *base_;
};

}  // namespace llorch
