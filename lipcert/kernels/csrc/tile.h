/* Tiles of TI rows of x by TJ rows of w: PAIRS totals over the columns, which stay in registers. */

#define TI 4
#define TJ (BITS == 512 ? 4 : 2)
#define PAIRS (TI * TJ)
enum { BLOCKS = 32 };

static long least_of(long a, long b) {
    return a < b ? a : b;
}

/* Pointers to `count` rows from `first` on; beyond the last row of the matrix, that one again. */
static void point(const REAL **to, long count, const REAL *matrix, long n, long first, long rows) {
    for (long r = 0; r < count; r++)
        to[r] = matrix + least_of(first + r, rows - 1) * n;
}

/* The columns of a block: whole vectors, at least 8, such that there are at most BLOCKS blocks. */
static long block_columns(long n) {
    long vectors = (n + LANES * BLOCKS - 1) / (LANES * BLOCKS);
    return LANES * (vectors < 8 ? 8 : vectors);
}

/* s^h, h >= 1 known to the compiler. */
INLINE V power(V s, int h) {
    V r = h & 1 ? s : (V){0} + 1;
    for (h >>= 1; h; h >>= 1) {
        s *= s;
        if (h & 1)
            r *= s;
    }
    return r;
}

/* What is totalled over k: the largest of |x - w|, x - w or w - x and 0; h > 0 is the sum of (x - w)^2h. */
enum { SIZE = 0, ABOVE = -1, BELOW = -2 };

/* Takes in `count` columns from k. */
INLINE void accumulate(V *total, const REAL *const *x, const REAL *const *w, long k, long count, int h) {
    V ws[TJ];
    for (int j = 0; j < TJ; j++)
        ws[j] = load(w[j] + k, count);
    for (int i = 0; i < TI; i++) {
        V xi = load(x[i] + k, count);
        for (int j = 0; j < TJ; j++) {
            V d = h == BELOW ? ws[j] - xi : xi - ws[j], *t = total + i * TJ + j;
            *t = h > 0 ? *t + power(d * d, h) : h == SIZE ? maximum_size(*t, d) : maximum(*t, d);
        }
    }
}

/* The totals over each block of columns, lane by lane. */
INLINE void over_blocks(V (*totals)[PAIRS], const REAL *const *x, const REAL *const *w, long n, long columns, int h) {
    for (long start = 0; start < n; start += columns, totals++) {
        V total[PAIRS] = {0};
        long k = start, end = least_of(start + columns, n);
        for (; k + LANES <= end; k += LANES)
            accumulate(total, x, w, k, LANES, h);
        if (k < end)
            accumulate(total, x, w, k, end - k, h);
        memcpy(totals, total, sizeof total);
    }
}
