/* Choice of the instruction set, and threads. */

#include <string.h>

#include "kernels.h"

#define TABLES(level) extern const struct kernels level##_float, level##_double
TABLES(baseline);
#ifdef __x86_64__
TABLES(avx2);
TABLES(avx512);
#endif

/* The kernels of a level ("avx512", "avx2", "baseline"), or null if they were not built or this machine has not the
   instructions. Float64 knows p = inf only. */
__attribute__((visibility("default"))) const struct kernels *lipcert_kernels(const char *level, int is_double) {
#ifdef __x86_64__
    __builtin_cpu_init();
    if (!strcmp(level, "avx512") && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq"))
        return is_double ? &avx512_double : &avx512_float;
    if (!strcmp(level, "avx2") && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return is_double ? &avx2_double : &avx2_float;
#endif
    if (!strcmp(level, "baseline"))
        return is_double ? &baseline_double : &baseline_float;
    return 0;
}

/* The OpenMP runtime that torch has loaded: a second one would spin against it. Without any, one thread works. */
extern void GOMP_parallel(void (*work)(void *), void *data, unsigned threads, unsigned flags) __attribute__((weak));

struct work {
    void (*task)(const void *arguments, long i);
    const void *arguments;
    long next, count;
};

static void take(void *data) {
    struct work *work = data;
    for (long i; (i = __atomic_fetch_add(&work->next, 1, __ATOMIC_RELAXED)) < work->count;)
        work->task(work->arguments, i);
}

void parallel(void (*task)(const void *arguments, long i), const void *arguments, long count, int threads) {
    struct work work = {task, arguments, 0, count};
    if (threads > 1 && count > 1 && GOMP_parallel)
        GOMP_parallel(take, &work, threads, 0);
    else
        take(&work);
}
