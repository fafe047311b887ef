/* The kernels of one instruction set and type. The file that includes this defines BITS, PRECISION and NAME. */

#include "kernels.h"

#include "simd.h"

#include "tile.h"

#include "largest.h"
#include "scatter.h"

#if PRECISION == 32
#include "powers.h"

#include "few.h"

#include "gradients.h"
#include "sums.h"
#endif

enum { MOST_ROWS = 256, COLUMNS = 64 };

/* 0 if all numbers are finite, otherwise no number: added to distances, because maxima would not show it. */
static REAL taint(const REAL *row, long n) {
    V sum = {0};
    for (long k = 0; k < n; k += LANES)
        sum += load(row + k, n - k) * 0;
    return sum_of_lanes(sum);
}

struct distances {
    const REAL *x, *high, *w; /* with `high`, y and upper are the range of distances between x and high */
    REAL *y, *upper;
    int *index;
    long B, m, n, rows;
    double p;
#if PRECISION == 32
    struct summation sum;
#endif
};

static void distances_of_tile(REAL *y, int *index, const REAL *const *x, const REAL *const *w,
                              const struct distances *s) {
    if (s->p == INFINITY)
        largest_of_tile(y, index, x, w, s->n);
#if PRECISION == 32
    else if (half_of(s->p) > UNROLLED)
        squares_of_tile(y, x, w, s->n, half_of(s->p));
    else if (!half_of(s->p) || !even_powers_of_tile(y, x, w, s->n, half_of(s->p)))
        powers_of_tile(y, x, w, s->n, &s->sum);
#endif
}

/* `rows` rows of x by COLUMNS rows of w. */
static void distances(const void *arguments, long task) {
    const struct distances *s = arguments;
    const long n = s->n, across = (s->m + COLUMNS - 1) / COLUMNS;
    const long i0 = task / across * s->rows, i1 = least_of(i0 + s->rows, s->B);
    const long j0 = task % across * COLUMNS, j1 = least_of(j0 + COLUMNS, s->m);
    REAL taint_x[MOST_ROWS], taint_w[COLUMNS];
    for (long i = i0; i < i1; i++)
        taint_x[i - i0] = taint(s->x + i * n, n) + (s->high ? taint(s->high + i * n, n) : 0);
    for (long j = j0; j < j1; j++)
        taint_w[j - j0] = taint(s->w + j * n, n);
    for (long j = j0; j < j1; j += TJ)
        for (long i = i0; i < i1; i += TI) {
            const REAL *x[TI], *high[TI], *w[TJ];
            REAL y[PAIRS], upper[PAIRS];
            int index[PAIRS];
            point(x, TI, s->x, n, i, s->B);
            point(w, TJ, s->w, n, j, s->m);
            if (s->high) {
                point(high, TI, s->high, n, i, s->B);
                range_of_tile(y, upper, x, high, w, n);
            } else
                distances_of_tile(y, s->index ? index : 0, x, w, s);
            for (long r = i; r < least_of(i + TI, i1); r++)
                for (long c = j; c < least_of(j + TJ, j1); c++) {
                    const long pair = (r - i) * TJ + c - j, at = r * s->m + c;
                    const REAL taint_xw = taint_x[r - i0] + taint_w[c - j0];
                    s->y[at] = y[pair] + taint_xw;
                    if (s->high)
                        s->upper[at] = upper[pair] + taint_xw;
                    if (s->index)
                        s->index[at] = index[pair];
                }
        }
}

/* x stays in the second cache while w passes once, unless the threads need more tasks. */
static void all_distances(struct distances *s, int threads) {
    const long across = (s->m + COLUMNS - 1) / COLUMNS;
    s->rows = MOST_ROWS;
    while (s->rows > TI && (s->rows * s->n * (long)sizeof(REAL) > 1 << 20 ||
                            (s->B + s->rows - 1) / s->rows * across < 4 * threads))
        s->rows /= 2;
    parallel(distances, s, (s->B + s->rows - 1) / s->rows * across, threads);
}

static void forward(const void *x, const void *w, void *y, int *index, long B, long m, long n, double p, int threads) {
    struct distances s = {.x = x, .w = w, .y = y, .index = index, .B = B, .m = m, .n = n, .p = p};
#if PRECISION == 32
    s.sum = summation(n, p);
#endif
    all_distances(&s, threads);
}

static void bounds(const void *low, const void *high, const void *w, void *lower, void *upper, long B, long m, long n,
                   int threads) {
    struct distances s = {.x = low, .high = high, .w = w, .y = lower, .upper = upper, .B = B, .m = m, .n = n};
    all_distances(&s, threads);
}

static void backward(const void *grad, const void *x, const void *w, const void *y, const int *index, void *gx,
                     void *gw, long B, long m, long n, double p, int threads) {
    if (p == INFINITY) {
        struct scatter s = {grad, x, w, index, gx, gw, B, m, n};
        parallel(scatter, &s, scatter_tasks(&s), threads);
        return;
    }
#if PRECISION == 32
    struct gradients s = {.grad = grad, .x = x, .w = w, .y = y, .gx = gx, .gw = gw, .B = B, .m = m, .n = n, .p = p};
    s.slices = ((n + SLICE - 1) / SLICE + threads - 1) / threads * threads;
    parallel(gradients, &s, s.slices, threads);
#else
    (void)y;
#endif
}

const struct kernels NAME = {forward, backward, bounds};
