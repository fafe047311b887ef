/* p = inf: distances of a tile, y[i * TJ + j], and their range over a box. */

/* The largest difference of each pair, from the maxima of the blocks. */
static void largest_of_pairs(REAL *y, V (*largest)[PAIRS], long n) {
    for (int pair = 0; pair < PAIRS; pair++) {
        V overall = largest[0][pair];
        for (long b = 1; b * block_columns(n) < n; b++)
            overall = maximum(overall, largest[b][pair]);
        y[pair] = largest_lane(overall);
    }
}

/* The first column where |x - w| is `largest`, `block` being the maxima of the blocks, PAIRS apart. Branches would be
   guessed wrong. The last block if nowhere, as among values that are no numbers. */
INLINE long find(const REAL *x, const REAL *w, long n, const V *block, REAL largest) {
    const long columns = block_columns(n), last = (n - 1) / columns;
    unsigned at = 1u << last;
    for (long b = 0; b < last; b++)
        at |= (unsigned)(reaches(block[b * PAIRS], largest) != 0) << b;
    const long start = __builtin_ctz(at) * columns, end = least_of(start + columns, n);
    long found = start;
    for (long k = end - 1 - (end - 1 - start) % LANES; k >= start; k -= LANES) {
        const unsigned here = reaches(absolute(load(x + k, end - k) - load(w + k, end - k)), largest);
        found = here ? k + __builtin_ctz(here) : found;
    }
    return found;
}

/* p = inf; `index`, unless null, takes where the first of the largest differences lies. */
static void largest_of_tile(REAL *y, int *index, const REAL *const *x, const REAL *const *w, long n) {
    V largest[BLOCKS][PAIRS];
    over_blocks(largest, x, w, n, block_columns(n), SIZE);
    largest_of_pairs(y, largest, n);
    for (int pair = 0; index && pair < PAIRS; pair++)
        index[pair] = find(x[pair / TJ], w[pair % TJ], n, largest[0] + pair, y[pair]);
}

/* The range for p = inf when x lies between low and high. */
static void range_of_tile(REAL *lower, REAL *upper, const REAL *const *low, const REAL *const *high,
                          const REAL *const *w, long n) {
    V total[4][1][PAIRS];
    over_blocks(total[0], low, w, n, n, ABOVE);
    over_blocks(total[1], high, w, n, n, BELOW);
    over_blocks(total[2], low, w, n, n, SIZE);
    over_blocks(total[3], high, w, n, n, SIZE);
    for (int pair = 0; pair < PAIRS; pair++) {
        lower[pair] = largest_lane(maximum(total[0][0][pair], total[1][0][pair]));
        upper[pair] = largest_lane(maximum(total[2][0][pair], total[3][0][pair]));
    }
}
