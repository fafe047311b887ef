/* The distances of a tile, y[i * TJ + j]. */

/* The first column from k on where |x - w| is `largest`; n - 1 if nowhere, as among values that are no numbers. */
static long find(const REAL *x, const REAL *w, long k, long n, REAL largest) {
    while (k + LANES < n && !reaches(absolute(load(x + k, LANES) - load(w + k, LANES)), largest))
        k += LANES;
    while (k + 1 < n && !(x[k] - w[k] == largest || w[k] - x[k] == largest))
        k++;
    return k;
}

/* The largest difference of each pair, from the maxima of the blocks. */
static void largest_of_pairs(REAL *y, V (*largest)[PAIRS], long n) {
    for (int pair = 0; pair < PAIRS; pair++) {
        V overall = largest[0][pair];
        for (long b = 1; b * block_columns(n) < n; b++)
            overall = maximum(overall, largest[b][pair]);
        y[pair] = largest_lane(overall);
    }
}

/* p = inf; `index`, unless null, takes where the first of the largest differences lies. */
static void largest_of_tile(REAL *y, int *index, const REAL *const *x, const REAL *const *w, long n) {
    V largest[BLOCKS][PAIRS];
    long columns = block_columns(n);
    over_blocks(largest, x, w, n, columns, 0);
    largest_of_pairs(y, largest, n);
    for (int pair = 0; index && pair < PAIRS; pair++) {
        long k = 0;
        for (V *block = largest[0] + pair; k + columns < n && !reaches(*block, y[pair]); block += PAIRS)
            k += columns;
        index[pair] = find(x[pair / TJ], w[pair % TJ], k, n, y[pair]);
    }
}

#if PRECISION == 32

INLINE V sum_of_picked(const float *picked, long held, struct scale to, float exponent, int near) {
    V sum = {0};
    for (long l = 0; l < held; l += LANES)
        sum += powers(load(picked + l, held - l), to, exponent, near);
    return sum;
}

/* The sum of the powers of |x - w|, relative to the largest; `largest` has the maxima of the blocks, PAIRS apart. */
INLINE float sum_of_pair(const float *x, const float *w, long n, const V *largest, struct scale to,
                         const struct summation *s, int near) {
    enum { ROOM = 1024 };
    float picked[ROOM + LANES];
    long held = 0, columns = block_columns(n);
    V sum = {0};
    for (long start = 0; start < n; start += columns, largest += PAIRS) {
        if (!reaches(*largest, to.limit))
            continue;
        long end = start + columns < n ? start + columns : n;
        for (long k = start; k < end; k += LANES) {
            V size = absolute(load(x + k, end - k) - load(w + k, end - k));
            if (!s->sparse) {
                sum += powers(size, to, s->exponent, near);
                continue;
            }
            held += pack(picked + held, size, reaches(size, to.limit));
            if (held > ROOM) {
                sum += sum_of_picked(picked, held, to, s->exponent, near);
                held = 0;
            }
        }
    }
    return sum_of_lanes(sum + sum_of_picked(picked, held, to, s->exponent, near));
}

static void powers_of_tile(float *y, const float *const *x, const float *const *w, long n, const struct summation *s) {
    V largest[BLOCKS][PAIRS];
    float sums[PAIRS];
    over_blocks(largest, x, w, n, block_columns(n), 0);
    largest_of_pairs(y, largest, n);
    for (int pair = 0; pair < PAIRS; pair++) {
        const float *xi = x[pair / TJ], *wj = w[pair % TJ];
        struct scale to = relative(y[pair], s->cut);
        float sum = s->near ? sum_of_pair(xi, wj, n, largest[0] + pair, to, s, 1)
                            : sum_of_pair(xi, wj, n, largest[0] + pair, to, s, 0);
        sums[pair] = sum >= 1 ? sum : 1; /* as it is, but for rounding, unless all differences are below 3e-39 */
    }
    for (int pair = 0; pair < PAIRS; pair += LANES)
        store(y + pair, load(y + pair, LANES) * root(load(sums + pair, LANES), 1 / s->exponent), LANES);
}

/* p = 2h: powers are products, of the differences as they are. Returns 0 if a sum left the range where that is exact. */
static int even_powers_of_tile(float *y, const float *const *x, const float *const *w, long n, int h) {
    V sums[1][PAIRS];
    switch (h) {
#define CASE(h) case h: over_blocks(sums, x, w, n, n, h); break;
    CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8)
#undef CASE
    }
    int safe = 1;
    for (int pair = 0; pair < PAIRS; pair++) {
        y[pair] = sum_of_lanes(sums[0][pair]);
        safe &= y[pair] > 0x1p-70f && y[pair] < 0x1p100f;
    }
    for (int pair = 0; pair < PAIRS; pair += LANES)
        store(y + pair, root(load(y + pair, LANES), 0.5f / h), LANES);
    return safe;
}

#endif
