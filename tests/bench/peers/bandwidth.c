/* How fast all threads together read memory that no cache holds. Prints the best of some passes in GB/s.
   usage: bandwidth THREADS MEBIBYTES PASSES */
#include <omp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { AHEAD = 2048, STRIDE = 256, PAGE = 2 << 20 };

typedef uint64_t vector __attribute__((vector_size(64)));

static uint64_t read_all(const char *start, size_t size)
{
    vector a = {0}, b = {0}, c = {0}, d = {0};
    for (size_t i = 0; i + STRIDE <= size; i += STRIDE) {
        const char *at = start + i;
        a |= *(const vector *)(at);
        b |= *(const vector *)(at + 64);
        c |= *(const vector *)(at + 128);
        d |= *(const vector *)(at + 192);
        for (int line = 0; line < STRIDE; line += 64)
            __builtin_prefetch(at + AHEAD + line, 0, 3);
    }
    a |= b | c | d;
    uint64_t sum = 0;
    for (int lane = 0; lane < 8; lane++)
        sum += a[lane];
    return sum;
}

int main(int argc, char **argv)
{
    if (argc != 4)
        return 2;
    int threads = atoi(argv[1]);
    size_t size = (size_t)atol(argv[2]) << 20;
    char *memory;
    if (posix_memalign((void **)&memory, PAGE, size))
        return 1;
#ifdef MADV_HUGEPAGE
    madvise(memory, size, MADV_HUGEPAGE);
#endif
    memset(memory, 1, size);
    size_t part = size / threads / STRIDE * STRIDE;
    double best = 0;
    uint64_t sink = 0;
    for (int pass = 0; pass < atoi(argv[3]); pass++) {
        double began = omp_get_wtime();
#pragma omp parallel num_threads(threads) reduction(+ : sink)
        sink += read_all(memory + part * omp_get_thread_num(), part);
        double speed = part * threads / (omp_get_wtime() - began) / 1e9;
        best = speed > best ? speed : best;
    }
    fprintf(stderr, "%llu\n", (unsigned long long)sink); /* so that the reads are not optimised away */
    printf("%.2f\n", best);
    return 0;
}
