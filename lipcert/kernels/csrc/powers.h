/* Powers of ratios up to 1, in float32. The larger the exponent, the closer to 1 is what counts, and the better known
   that is. */

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

/* 2^t for t < 127, but at least 2^-60, which counts nowhere: much less would make denormal products, which are slow. */
INLINE V exp2_(V t) {
    const float shift = 0x1.8p23f; /* t + shift is rounded to the integer that its last bits hold */
    t = maximum(t, (V){0} - 60);
    V shifted = t + shift;
    return (V)((I)polynomial(t - (shifted - shift), EXP2, 5) + ((I)shifted << 23));
}

/* a^q for normal a; 2^-60 or 2^(-127 q) for a = 0. */
INLINE V root(V a, float q) {
    return exp2_(log2_(a) * q);
}

/* How powers with one exponent are summed: ratios below `cut` cannot change a sum of n powers that is at least 1. */
struct summation {
    float exponent, cut;
    enum { ALL, SOME, FEW } count; /* of the ratios reach the cut; the FEW are at least sqrt(1/2) */
};

static struct summation summation(long n, double exponent) {
    const float cut = exp2(-(24 + log2(n)) / exponent);
    return (struct summation){
        exponent, cut, cut > 0.70710678f ? FEW : BITS == 512 && cut > 0.05f ? SOME : ALL /* elsewhere not faster */
    };
}

/* p / 2 if p is an even number up to 128, otherwise 0: above, few enough differences count. */
static int half_of(double p) {
    const int h = p < 129 ? p / 2 : 0;
    return 2 * h == p ? h : 0;
}

enum { UNROLLED = 8 }; /* h up to this is known to the compiler where it is a power of squares */

#define GROUP (2 * TJ) /* pairs of two rows of x with a tile's rows of w, whose powers fit into registers together */

/* r * s^h, into r; s is used up. */
INLINE void times_power(V *r, V *s, int h) {
    while (h) {
        if (h & 1)
            for (int g = 0; g < GROUP; g++)
                r[g] *= s[g];
        if (h >>= 1)
            for (int g = 0; g < GROUP; g++)
                s[g] *= s[g];
    }
}

/* What the ratios of a pair are relative to. */
struct scale {
    float scale, inverse, limit; /* a size below the limit does not count: 0 never does */
};

static struct scale relative(float scale, float cut) {
    const float inverse = 1 / scale; /* infinite below 3e-39 */
    const float limit = scale == 0 ? INFINITY : fmaxf(cut * scale, 0x1p-126f);
    return (struct scale){scale, inverse < 3e38f ? inverse : 3e38f, limit};
}

/* (size / scale)^exponent for 0 <= size <= scale. */
INLINE V powers(V size, struct scale to, float exponent) {
    return root(size * to.inverse, exponent);
}

/* (1 + f)^exponent, where f = (size - scale) / scale is known better than 1 + f. */
INLINE V powers_near_one(V f, float exponent) {
    return exp2_(f * polynomial(f, LOG2, 7) * exponent);
}

/* Appends the lanes whose bit is set in `keep`; writes LANES numbers, and returns how many of them count. */
INLINE long pack(float *to, V v, unsigned keep) {
#if BITS == 512
    _mm512_storeu_ps(to, _mm512_maskz_compress_ps(keep, v));
    return __builtin_popcount(keep);
#else
    long held = 0;
    for (long l = 0; l < LANES; l++) {
        to[held] = v[l];
        held += keep >> l & 1;
    }
    return held;
#endif
}

#if BITS == 512
/* Puts them back, with zeros between, and moves on. */
INLINE V unpack(const float **from, unsigned keep) {
    V v = _mm512_maskz_expand_ps(keep, _mm512_loadu_ps(*from));
    *from += __builtin_popcount(keep);
    return v;
}
#endif
