/* Gradients of a tile for finite p, in a slice of at most SLICE columns: added to the rows of gx and of gw. */

enum { SLICE_VECTORS = 32 };
#define SLICE (SLICE_VECTORS * LANES)

/* grad sign(d) (|d| / D)^(p - 1), 0 where d = 0. */
INLINE V slope(V d, float grad, struct scale to, float exponent, int near) {
    V t = with_sign(powers(absolute(d), to, exponent, near), d) * grad;
    return (V)((I)t & (d != 0));
}

INLINE void add(float *gx, float *gw, V t, long count) {
    store(gx, load(gx, count) + t, count);
    store(gw, load(gw, count) - t, count);
}

INLINE void gradients_of_pair(float grad, const float *x, const float *w, float *gx, float *gw, long n,
                              struct scale to, const struct summation *s, int near) {
    if (!s->sparse) {
        for (long k = 0; k < n; k += LANES)
            add(gx + k, gw + k, slope(load(x + k, n - k) - load(w + k, n - k), grad, to, s->exponent, near), n - k);
        return;
    }
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
        store(picked + l, slope(load(picked + l, LANES), grad, to, s->exponent, near), LANES);
    for (long v = 0, k = 0; k < n; v++, k += LANES)
        if (keep[v])
            add(gx + k, gw + k, unpack(&next, keep[v]), n - k);
}

/* One pair after the other, and of it the blocks of columns in which a difference counts. */
static void gradients_of_tile(const float *grad, const float *y, int rows, int columns, const float *const *x,
                              const float *const *w, float *const *gx, float *const *gw, long n,
                              const struct summation *s) {
    V largest[BLOCKS][PAIRS];
    long block = block_columns(n);
    over_blocks(largest, x, w, n, block, 0);
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < columns; j++) {
            int pair = i * TJ + j;
            struct scale to = relative(y[pair], s->cut);
            if (y[pair] == 0 || grad[pair] == 0)
                continue;
            for (long b = 0, k = 0; k < n; b++, k += block) {
                long count = n - k < block ? n - k : block;
                if (!reaches(largest[b][pair], to.limit))
                    continue;
                if (s->near)
                    gradients_of_pair(grad[pair], x[i] + k, w[j] + k, gx[i] + k, gw[j] + k, count, to, s, 1);
                else
                    gradients_of_pair(grad[pair], x[i] + k, w[j] + k, gx[i] + k, gw[j] + k, count, to, s, 0);
            }
        }
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

/* Returns 0, and does nothing, if a gradient or a distance is so large or small that a product could leave the range. */
static int even_gradients_of_tile(const float *grad, const float *y, const float *const *x, const float *const *w,
                                  float *const *gx, float *const *gw, long n, int h) {
    float factor[PAIRS];
    for (int pair = 0; pair < PAIRS; pair += LANES)
        store(factor + pair, root(absolute(load(grad + pair, LANES)), 1.0f / (2 * h - 1)) / load(y + pair, LANES), LANES);
    for (int pair = 0; pair < PAIRS; pair++) {
        float size = fabsf(grad[pair]);
        if (size == 0 || y[pair] == 0)
            factor[pair] = 0;
        else if (!(size > 0x1p-60f && size < 0x1p60f && y[pair] > 0x1p-60f && y[pair] < 0x1p60f))
            return 0;
        else if (grad[pair] < 0)
            factor[pair] = -factor[pair];
    }
    switch (h) {
#define CASE(h) case h: even_rows(factor, x, w, gx, gw, n, h); break;
    CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8)
#undef CASE
    }
    return 1;
}
