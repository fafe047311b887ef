/* Gradients of a tile for finite p, in a slice of at most SLICE columns: added to the rows of gx and of gw. */

enum { SLICE_VECTORS = 32 };
#define SLICE (SLICE_VECTORS * LANES)

/* grad sign(d) (|d| / D)^(p - 1), 0 where d = 0. */
INLINE V slope(V d, float grad, struct scale to, float exponent) {
    V t = with_sign(powers(absolute(d), to, exponent), d) * grad;
    return (V)((I)t & (d != 0));
}

INLINE void add(float *gx, float *gw, V t, long count) {
    const V x = load(gx, count) + t, w = load(gw, count) - t; /* loads wait for stores 4096 bytes apart */
    store(gx, x, count);
    store(gw, w, count);
}

static void gradients_of_pair(float grad, const float *x, const float *w, float *gx, float *gw, long n,
                              struct scale to, const struct summation *s) {
#if BITS == 512
    if (s->count == SOME) {
        float picked[SLICE + LANES];
        const float *next = picked;
        unsigned keep[SLICE_VECTORS];
        long held = 0;
        for (long v = 0, k = 0; k < n; v++, k += LANES) {
            V d = load(x + k, n - k) - load(w + k, n - k);
            keep[v] = reaches(absolute(d), to.limit);
            held += pack(picked + held, d, keep[v]);
        }
        for (long l = 0; l < held; l += LANES)
            store(picked + l, slope(load(picked + l, held - l), grad, to, s->exponent), LANES);
        for (long v = 0, k = 0; k < n; v++, k += LANES)
            add(gx + k, gw + k, unpack(&next, keep[v]), n - k);
        return;
    }
#endif
    for (long k = 0; k < n; k += LANES)
        add(gx + k, gw + k, slope(load(x + k, n - k) - load(w + k, n - k), grad, to, s->exponent), n - k);
}

static void gradients_of_tile(const float *grad, const float *y, const float *const *x, const float *const *w,
                              float *const *gx, float *const *gw, long n, const struct summation *s) {
    V largest[BLOCKS][PAIRS];
    struct tile t = {.x = x, .w = w, .n = n, .grad = grad, .gx = gx, .gw = gw};
    for (int pair = 0; pair < PAIRS; pair++) {
        t.to[pair] = relative(y[pair], s->cut);
        if (grad[pair] == 0)
            t.to[pair].limit = INFINITY;
    }
    if (s->count == FEW) {
        over_blocks(largest, x, w, n, block_columns(n), SIZE);
        few_of_tile(&t, largest, s->exponent);
        return;
    }
    for (int pair = 0; pair < PAIRS; pair++)
        if (t.to[pair].limit < INFINITY)
            gradients_of_pair(grad[pair], x[pair / TJ], w[pair % TJ], gx[pair / TJ], gw[pair % TJ], n, t.to[pair], s);
}

/* p = 2h: sums stay in registers, (|grad|^(1 / (p - 1)) d / D)^(p - 1) by products. */
INLINE void even_columns(const float *factor, const float *const *x, const float *const *w, float *const *gx,
                         float *const *gw, long k, long count, int h) {
    V xs[TI], ws[TJ], gxs[TI], gws[TJ];
    for (int i = 0; i < TI; i++)
        xs[i] = load(x[i] + k, count), gxs[i] = load(gx[i] + k, count);
    for (int j = 0; j < TJ; j++)
        ws[j] = load(w[j] + k, count), gws[j] = load(gw[j] + k, count);
    for (int i = 0; i < TI; i++)
        for (int j = 0; j < TJ; j++) {
            V r = (xs[i] - ws[j]) * factor[i * TJ + j];
            V t = h > 1 ? r * power(r * r, h - 1) : r;
            gxs[i] += t;
            gws[j] -= t;
        }
    for (int i = 0; i < TI; i++)
        store(gx[i] + k, gxs[i], count);
    for (int j = 0; j < TJ; j++)
        store(gw[j] + k, gws[j], count);
}

INLINE void even_rows(const float *factor, const float *const *x, const float *const *w, float *const *gx,
                      float *const *gw, long n, int h) {
    long k = 0;
    for (; k + LANES <= n; k += LANES)
        even_columns(factor, x, w, gx, gw, k, LANES, h);
    if (k < n)
        even_columns(factor, x, w, gx, gw, k, n - k, h);
}

/* The same two rows of x at a time, for an h that the compiler does not know. */
INLINE void squared_columns(const float *factor, const float *const *x, const float *const *w, float *const *gx,
                            float *const *gw, long k, long count, int h) {
    V ws[TJ], gws[TJ], s[GROUP], r[GROUP];
    for (int j = 0; j < TJ; j++)
        ws[j] = load(w[j] + k, count), gws[j] = load(gw[j] + k, count);
    for (int g = 0; g < GROUP; g++) {
        r[g] = (load(x[g / TJ] + k, count) - ws[g % TJ]) * factor[g];
        s[g] = r[g] * r[g];
    }
    times_power(r, s, h - 1);
    for (int i = 0; i < 2; i++) {
        V sum = load(gx[i] + k, count);
        for (int j = 0; j < TJ; j++) {
            sum += r[i * TJ + j];
            gws[j] -= r[i * TJ + j];
        }
        store(gx[i] + k, sum, count);
    }
    for (int j = 0; j < TJ; j++)
        store(gw[j] + k, gws[j], count);
}

static void squared_rows(const float *factor, const float *const *x, const float *const *w, float *const *gx,
                         float *const *gw, long n, int h) {
    for (int i = 0; i < TI; i += 2) {
        long k = 0;
        for (; k + LANES <= n; k += LANES)
            squared_columns(factor + i * TJ, x + i, w, gx + i, gw, k, LANES, h);
        if (k < n)
            squared_columns(factor + i * TJ, x + i, w, gx + i, gw, k, n - k, h);
    }
}

/* Returns 0, and does nothing, if a gradient or distance is so large or small that a product could leave the range. */
static int even_gradients_of_tile(const float *grad, const float *y, const float *const *x, const float *const *w,
                                  float *const *gx, float *const *gw, long n, int h) {
    float factor[PAIRS];
    const unsigned before = flush();
    for (int pair = 0; pair < PAIRS; pair += LANES)
        store(factor + pair, root(absolute(load(grad + pair, LANES)), 1.0f / (2 * h - 1)) / load(y + pair, LANES),
              LANES);
    int safe = 1;
    for (int pair = 0; pair < PAIRS; pair++) {
        float size = fabsf(grad[pair]);
        if (size == 0 || y[pair] == 0)
            factor[pair] = 0;
        else if (!(size > 0x1p-60f && size < 0x1p60f && y[pair] > 0x1p-60f && y[pair] < 0x1p60f))
            safe = 0;
        else if (grad[pair] < 0)
            factor[pair] = -factor[pair];
    }
    if (safe && h > UNROLLED)
        squared_rows(factor, x, w, gx, gw, n, h);
    switch (safe ? h : 0) {
#define CASE(h) case h: even_rows(factor, x, w, gx, gw, n, h); break;
    CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8)
#undef CASE
    }
    unflush(before);
    return safe;
}

struct gradients {
    const float *grad, *x, *w, *y;
    float *gx, *gw;
    long B, m, n, slices;
    double p;
};

enum { WS = 128 }; /* rows of w and gw that stay in the second cache while x and gx pass */

/* A slice of the columns of gx and gw, by one thread and in one order. */
static void gradients(const void *arguments, long task) {
    const struct gradients *s = arguments;
    const long n = s->n, m = s->m, vectors = (n + LANES - 1) / LANES;
    const long start = vectors * task / s->slices * LANES, stop = vectors * (task + 1) / s->slices * LANES;
    const long width = least_of(stop, n) - start;
    const struct summation sum = summation(n, s->p - 1);
    const int h = half_of(s->p);
    float spare[SLICE] = {0};
    if (width <= 0)
        return;
    for (long i = 0; s->gx && i < s->B; i++)
        memset(s->gx + i * n + start, 0, width * sizeof(float));
    for (long j = 0; s->gw && j < m; j++)
        memset(s->gw + j * n + start, 0, width * sizeof(float));
    for (long j0 = 0; j0 < m; j0 += WS)
        for (long i = 0; i < s->B; i += TI)
            for (long j = j0; j < least_of(j0 + WS, m); j += TJ) {
                const float *x[TI], *w[TJ];
                float *gx[TI], *gw[TJ], grad[PAIRS] = {0}, y[PAIRS] = {0};
                point(x, TI, s->x + start, n, i, s->B);
                point(w, TJ, s->w + start, n, j, m);
                for (long r = 0; r < TI; r++)
                    gx[r] = s->gx && i + r < s->B ? s->gx + (i + r) * n + start : spare;
                for (long c = 0; c < TJ; c++)
                    gw[c] = s->gw && j + c < m ? s->gw + (j + c) * n + start : spare;
                for (long r = i; r < least_of(i + TI, s->B); r++)
                    for (long c = j; c < least_of(j + TJ, m); c++) {
                        const long pair = (r - i) * TJ + c - j, at = r * m + c;
                        y[pair] = s->y[at];
                        grad[pair] = s->grad[at] + 0 * y[pair]; /* no number for a distance that is none */
                    }
                if (!h || !even_gradients_of_tile(grad, y, x, w, gx, gw, width, h))
                    gradients_of_tile(grad, y, x, w, gx, gw, width, &sum);
            }
}
