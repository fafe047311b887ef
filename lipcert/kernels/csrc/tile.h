/* Tiles of TI rows of x by TJ rows of w: PAIRS totals over the columns, that stay in registers. */

#define TI 4
#define TJ (BITS == 512 ? 4 : 2)
#define PAIRS (TI * TJ)
enum { BLOCKS = 32 };

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

/* Takes in `count` columns from k: with h > 0 for sums of (x - w)^2h, otherwise for the largest |x - w|. */
INLINE void accumulate(V *total, const REAL *const *x, const REAL *const *w, long k, long count, int h) {
    V ws[TJ];
    for (int j = 0; j < TJ; j++)
        ws[j] = load(w[j] + k, count);
    for (int i = 0; i < TI; i++) {
        V xi = load(x[i] + k, count);
        for (int j = 0; j < TJ; j++) {
            V d = xi - ws[j], *t = total + i * TJ + j;
            *t = h ? *t + power(d * d, h) : maximum_size(*t, d);
        }
    }
}

/* The totals over each block of columns, lane by lane. */
INLINE void over_blocks(V (*totals)[PAIRS], const REAL *const *x, const REAL *const *w, long n, long columns, int h) {
    for (long start = 0; start < n; start += columns, totals++) {
        V total[PAIRS] = {0};
        long end = start + columns < n ? start + columns : n, k = start;
        for (; k + LANES <= end; k += LANES)
            accumulate(total, x, w, k, LANES, h);
        if (k < end)
            accumulate(total, x, w, k, end - k, h);
        memcpy(totals, total, sizeof total);
    }
}
