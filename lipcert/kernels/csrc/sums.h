/* Finite p: distances of a tile, y[i * TJ + j]. */

#if BITS == 512
INLINE V sum_of_picked(const float *picked, long held, struct scale to, float exponent) {
    V sum = {0};
    for (long l = 0; l < held; l += LANES)
        sum += powers(load(picked + l, held - l), to, exponent);
    return sum;
}
#endif

/* The sum of the powers of |x - w| relative to their scale. */
static float sum_of_pair(const float *x, const float *w, long n, struct scale to, const struct summation *s) {
    V sum = {0};
#if BITS == 512
    if (s->count == SOME) {
        float picked[ROOM + LANES];
        long held = 0;
        for (long k = 0; k < n; k += LANES) {
            V size = absolute(load(x + k, n - k) - load(w + k, n - k));
            held += pack(picked + held, size, reaches(size, to.limit));
            if (held > ROOM) {
                sum += sum_of_picked(picked, held, to, s->exponent);
                held = 0;
            }
        }
        return sum_of_lanes(sum + sum_of_picked(picked, held, to, s->exponent));
    }
#endif
    for (long k = 0; k < n; k += LANES)
        sum += powers(absolute(load(x + k, n - k) - load(w + k, n - k)), to, s->exponent);
    return sum_of_lanes(sum);
}

/* y, the largest of each pair, times the p-th root of the sums: 1 or more but for rounding, if there is an inverse. */
static void scale_up(float *y, float *sums, float p) {
    for (int pair = 0; pair < PAIRS; pair++)
        sums[pair] = sums[pair] >= 1 ? sums[pair] : 1;
    for (int pair = 0; pair < PAIRS; pair += LANES)
        store(y + pair, load(y + pair, LANES) * root(load(sums + pair, LANES), 1 / p), LANES);
}

/* p = 2h: powers of the ratios to the largest are products. */
static void squares_of_tile(float *y, const float *const *x, const float *const *w, long n, int h) {
    V largest[BLOCKS][PAIRS];
    float sums[PAIRS];
    over_blocks(largest, x, w, n, block_columns(n), SIZE);
    largest_of_pairs(y, largest, n);
    const unsigned before = flush();
    for (int i = 0; i < TI; i += 2) {
        V total[GROUP] = {0}, inverse[GROUP];
        for (int g = 0; g < GROUP; g++)
            inverse[g] = (V){0} + relative(y[i * TJ + g], 1).inverse;
        for (long k = 0; k < n; k += LANES) {
            V s[GROUP], r[GROUP];
            for (int g = 0; g < GROUP; g++) {
                r[g] = (load(x[i + g / TJ] + k, n - k) - load(w[g % TJ] + k, n - k)) * inverse[g];
                s[g] = r[g] * r[g];
                r[g] = (V){0} + 1;
            }
            times_power(r, s, h);
            for (int g = 0; g < GROUP; g++)
                total[g] += r[g];
        }
        for (int g = 0; g < GROUP; g++)
            sums[i * TJ + g] = sum_of_lanes(total[g]);
    }
    unflush(before);
    scale_up(y, sums, 2 * h);
}

static void powers_of_tile(float *y, const float *const *x, const float *const *w, long n,
                           const struct summation *s) {
    V largest[BLOCKS][PAIRS];
    float sums[PAIRS] = {0};
    struct tile t = {.x = x, .w = w, .n = n, .sums = sums};
    over_blocks(largest, x, w, n, block_columns(n), SIZE);
    largest_of_pairs(y, largest, n);
    for (int pair = 0; pair < PAIRS; pair++)
        t.to[pair] = relative(y[pair], s->cut);
    if (s->count == FEW)
        few_of_tile(&t, largest, s->exponent);
    else
        for (int pair = 0; pair < PAIRS; pair++)
            sums[pair] = sum_of_pair(x[pair / TJ], w[pair % TJ], n, t.to[pair], s);
    scale_up(y, sums, s->exponent);
}

/* p = 2h, h <= UNROLLED: powers are products, of the differences as they are. Returns 0 if a sum is too small or large for that. */
static int even_powers_of_tile(float *y, const float *const *x, const float *const *w, long n, int h) {
    V sums[1][PAIRS] = {0};
    int safe = 1;
    const unsigned before = flush();
    switch (h) {
#define CASE(h) case h: over_blocks(sums, x, w, n, n, h); break;
    CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8)
#undef CASE
    }
    for (int pair = 0; pair < PAIRS; pair++) {
        y[pair] = sum_of_lanes(sums[0][pair]);
        safe &= y[pair] > 0x1p-70f && y[pair] < 0x1p100f;
    }
    for (int pair = 0; pair < PAIRS; pair += LANES)
        store(y + pair, root(load(y + pair, LANES), 0.5f / h), LANES);
    unflush(before);
    return safe;
}
