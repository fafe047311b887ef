/* What the library offers, per instruction set and type. Matrices lie row by row: x (B, n), w (m, n), 1 <= n < 2^27. */

#ifndef LIPCERT_KERNELS_H
#define LIPCERT_KERNELS_H

struct kernels {
    /* y (B, m), and if `index` is given (p = inf only) where the first of the largest |x - w| lies. */
    void (*forward)(const void *x, const void *w, void *y, int *index, long B, long m, long n, double p, int threads);
    /* gx (B, n) and gw (m, n), either of which may be null; `index` serves p = inf, y every other p. */
    void (*backward)(const void *grad, const void *x, const void *w, const void *y, const int *index, void *gx,
                     void *gw, long B, long m, long n, double p, int threads);
    /* The range (B, m) of the distance for p = inf over low <= x <= high. */
    void (*bounds)(const void *low, const void *high, const void *w, void *lower, void *upper, long B, long m, long n,
                   int threads);
};

/* Runs task(arguments, i) for every i < count on that many threads, in no order. */
void parallel(void (*task)(const void *arguments, long i), const void *arguments, long count, int threads);

#endif
