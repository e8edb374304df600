// Rapid runs with changing numbers of active members.
#include "team.h"
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>
using namespace llorch;
struct Job { Team* team; std::vector<int> seen; int rounds; int errors = 0; };
int main(int argc, char** argv) {
    const int members = argc > 1 ? atoi(argv[1]) : 4, runs = argc > 2 ? atoi(argv[2]) : 20000;
    unsigned state = 1;
    for (int again = 0; again < 3; ++again) {
        auto team = std::make_unique<Team>(members);
        Job job{team.get(), std::vector<int>(size_t(members) * 16), 0};
        for (int run = 0; run < runs; ++run) {
            state = state * 1664525 + 1013904223;
            const int active = 1 + int((state >> 16) % unsigned(members));
            job.rounds = 1 + int((state >> 8) % 3);
            for (int i = 0; i < members; ++i) job.seen[size_t(i) * 16] = 0;
            team->run(active, [](void* context, Share share) {
                auto& job = *static_cast<Job*>(context);
                for (int round = 1; round <= job.rounds; ++round) {
                    job.seen[size_t(share.index) * 16]++;
                    job.team->barrier();
                    for (int i = 0; i < share.count; ++i)
                        if (job.seen[size_t(i) * 16] != round) __atomic_fetch_add(&job.errors, 1, __ATOMIC_RELAXED);
                    job.team->barrier();
                }
            }, &job);
            for (int i = 0; i < members; ++i)
                if (job.seen[size_t(i) * 16] != (i < active ? job.rounds : 0)) ++job.errors;
        }
        printf("errors %d\n", job.errors);
        if (job.errors) return 1;
        if (again == 1) usleep(200000);  // destroyed while asleep
    }
}
