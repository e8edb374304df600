// A fixed team of threads that runs one function at a time on all its members, with a barrier inside.
//
// Waiting spins for at most ~50 us and then sleeps on a futex: two workers on one host would otherwise burn each other's
// processors. The caller is member 0. How many members take part may differ from run to run; no result depends on it.
#pragma once
#include <immintrin.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <x86intrin.h>

#include <atomic>
#include <climits>
#include <cstdint>

namespace llorch {

class Signal {  // a number with one writer at a time, whose change can be waited for
  public:
    uint32_t value() const { return value_.load(std::memory_order_acquire); }

    void set(uint32_t value) {
        value_.store(value, std::memory_order_seq_cst);
        if (sleepers_.load(std::memory_order_seq_cst)) syscall(SYS_futex, &value_, FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0);
    }

    void wait_beyond(uint32_t seen) {
        const uint64_t give_up_at = __rdtsc() + SPIN_CYCLES;
        while (value() == seen) {
            if (__rdtsc() < give_up_at) {
                _mm_pause();
                continue;
            }
            sleepers_.fetch_add(1, std::memory_order_seq_cst);
            if (value_.load(std::memory_order_seq_cst) == seen)
                syscall(SYS_futex, &value_, FUTEX_WAIT_PRIVATE, seen, nullptr, nullptr, 0);
            sleepers_.fetch_sub(1, std::memory_order_seq_cst);
        }
    }

  private:
    static constexpr uint64_t SPIN_CYCLES = 120000;
    alignas(64) std::atomic<uint32_t> value_{0};
    alignas(64) std::atomic<uint32_t> sleepers_{0};
};

struct Share {  // one member's part of some work
    int index, count;

    int first(int units) const { return int(int64_t(units) * index / count); }
    int end(int units) const { return int(int64_t(units) * (index + 1) / count); }
};

class Team {
  public:
    static constexpr int MEMBERS_MAX = 256;

    explicit Team(int members) : members_(members < MEMBERS_MAX ? members : MEMBERS_MAX) {
        for (int index = 1; index < members_; ++index) {
            starts_[index] = {this, index};
            if (pthread_create(&threads_[index], nullptr, &Team::live, &starts_[index]) != 0) {
                members_ = index;  // fewer than wished for: slower, not wrong
                break;
            }
        }
    }

    ~Team() {
        begun_.set(begun_.value() | LEAVE);
        for (int index = 1; index < members_; ++index) pthread_join(threads_[index], nullptr);
    }

    int members() const { return members_; }

    // Run `job(context, share)` on `active` members; returns when all are done.
    void run(int active, void (*job)(void*, Share), void* context) {
        active_ = active < 1 ? 1 : active > members_ ? members_ : active;
        job_ = job;
        context_ = context;
        if (active_ > 1) begun_.set((begun_.value() / COUNTS + 1) * COUNTS | uint32_t(active_));
        job(context, {0, active_});
        barrier();
        context_ = nullptr;
    }

    // Nobody of the active members goes on before all are here.
    void barrier() {
        const int active = active_;  // read before arriving: afterwards it may be the next run's
        if (active == 1) return;
        const uint32_t phase = passed_.value();
        if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == active) {
            arrived_.store(0, std::memory_order_relaxed);
            passed_.set(phase + 1);
        } else {
            passed_.wait_beyond(phase);
        }
    }

  private:
    static constexpr uint32_t COUNTS = 512;  // the low bits of `begun_` are the number of active members
    static constexpr uint32_t LEAVE = COUNTS - 1;

    struct Start {
        Team* team;
        int index;
    };

    static void* live(void* start) {
        auto [team, index] = *static_cast<Start*>(start);
        uint32_t seen = 0;
        for (;;) {
            team->begun_.wait_beyond(seen);
            seen = team->begun_.value();
            // How many take part comes from the very word that says so: the next run may be in preparation already.
            const int active = int(seen % COUNTS);
            if (active == LEAVE) return nullptr;
            if (index >= active) continue;
            team->job_(team->context_, {index, active});
            team->barrier();
        }
    }

    int members_;
    int active_ = 1;
    void (*job_)(void*, Share) = nullptr;
    void* context_ = nullptr;
    Signal begun_, passed_;
    alignas(64) std::atomic<int> arrived_{0};
    pthread_t threads_[MEMBERS_MAX];
    Start starts_[MEMBERS_MAX];
};

}  // namespace llorch
