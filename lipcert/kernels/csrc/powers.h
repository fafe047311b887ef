/* Powers of ratios up to 1, of float32, with errors that do not grow with the exponent as long as the power counts. */

/* log2(1 + f) / f for sqrt(1/2) <= 1 + f <= sqrt(2), and 2^f for |f| <= 1/2: least relative error, 2e-7 and 1e-7. */
static const float LOG2[] = {1.4426949f,  -0.72135282f, 0.48092324f, -0.36023962f,
                             0.28709882f, -0.24887714f, 0.23404156f, -0.14580978f};
static const float EXP2[] = {1.0f, 0.693147f, 0.24022242f, 0.055507336f, 0.009671513f, 0.0013264724f};

INLINE V polynomial(V f, const float *coefficients, int degree) {
    V value = (V){0} + coefficients[degree];
    while (degree--)
        value = value * f + coefficients[degree];
    return value;
}

/* log2 of normal numbers. */
INLINE V log2_(V a) {
    I exponent = ((I)a - 0x3f3504f3) >> 23; /* of a / sqrt(1/2), rounded down */
    V f = (V)((I)a - (exponent << 23)) - 1;
    return __builtin_convertvector(exponent, V) + f * polynomial(f, LOG2, 7);
}

/* 2^t for t < 127; what would lie below 2^-126 is 2^-126. */
INLINE V exp2_(V t) {
    const float shift = 0x1.8p23f; /* t + shift is rounded to the integer that its last bits hold */
    t = maximum(t, (V){0} - 126);
    V shifted = t + shift;
    return (V)((I)polynomial(t - (shifted - shift), EXP2, 5) + ((I)shifted << 23));
}

/* a^q for normal a > 0. */
INLINE V root(V a, float q) {
    return exp2_(log2_(a) * q);
}

/* How powers with one exponent are summed: ratios below `cut` cannot change a sum of n powers that is at least 1. */
struct summation {
    float exponent, cut;
    int near;   /* all ratios that count are at least sqrt(1/2) */
    int sparse; /* so few count that they are picked out first */
};

static struct summation summation(long n, double exponent) {
    float cut = exp2(-(24 + log2(n)) / exponent);
    return (struct summation){exponent, cut, cut >= 0.70710678f, cut > 0.15f};
}

/* What a ratio is relative to. */
struct scale {
    float scale, inverse, limit;
};

static struct scale relative(float scale, float cut) {
    float inverse = 1 / scale; /* infinite below 3e-39 */
    return (struct scale){scale, inverse < 3e38f ? inverse : 3e38f, scale >= 0 ? cut * scale : -1};
}

/* (a / scale)^exponent for a <= scale; what does not count may come out larger, but not so large as to count. */
INLINE V powers(V a, struct scale to, float exponent, int near) {
    if (!near)
        return root(a * to.inverse, exponent);
    V f = maximum((a - to.scale) * to.inverse, (V){0} - 0.29289322f); /* a - scale is exact: 1 + f would not be */
    return exp2_(f * polynomial(f, LOG2, 7) * exponent);
}

/* Appends the lanes that `keep`, from `reaches`, stands for; writes LANES numbers, returns how many of them count. */
INLINE long pack(float *to, V v, unsigned keep) {
#if BITS == 512
    _mm512_storeu_ps(to, _mm512_maskz_compress_ps(keep, v));
    return __builtin_popcount(keep);
#else
    store(to, v, LANES);
    return keep ? LANES : 0;
#endif
}

/* Puts them back, between zeros, and moves on. */
INLINE V unpack(const float **from, unsigned keep) {
#if BITS == 512
    V v = _mm512_maskz_expandloadu_ps(keep, *from);
    *from += __builtin_popcount(keep);
#else
    V v = keep ? load(*from, LANES) : (V){0};
    *from += keep ? LANES : 0;
#endif
    return v;
}
