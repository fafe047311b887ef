/* Vectors of LANES numbers of type REAL, in registers of BITS bits: generic vectors, and intrinsics where those pay.

   Included by a file that defines BITS (512, 256, 128) and PRECISION (32, 64). */

#include <math.h>
#include <stdint.h>
#include <string.h>

#if BITS == 512
#define TARGET target("avx512f,avx512dq,avx2,fma,bmi,popcnt")
#elif BITS == 256
#define TARGET target("avx2,fma,bmi,popcnt")
#endif
#define TEXT_(tokens) #tokens
#define TEXT(tokens) TEXT_(tokens)
#if BITS > 128 && defined(__clang__)
#include <immintrin.h>
_Pragma(TEXT(clang attribute push(__attribute__((TARGET)), apply_to = function)))
#elif BITS > 128
_Pragma(TEXT(GCC TARGET))
#include <immintrin.h>
#endif

#if PRECISION == 32
typedef float REAL;
typedef int32_t INTEGER;
#define MAGNITUDE INT32_MAX /* all bits but the sign */
#else
typedef double REAL;
typedef int64_t INTEGER;
#define MAGNITUDE INT64_MAX
#endif

typedef REAL V __attribute__((vector_size(BITS / 8)));
typedef INTEGER I __attribute__((vector_size(BITS / 8)));
typedef V unaligned __attribute__((aligned(sizeof(REAL)), may_alias));

#define LANES ((long)(sizeof(V) / sizeof(REAL)))
#define INLINE static inline __attribute__((always_inline))

#if BITS == 512 && PRECISION == 32
#define INTRINSIC(name) _mm512_##name##_ps
#define COMPARE _mm512_cmp_ps_mask
#elif BITS == 512
#define INTRINSIC(name) _mm512_##name##_pd
#define COMPARE _mm512_cmp_pd_mask
#elif BITS == 256 && PRECISION == 32
#define INTRINSIC(name) _mm256_##name##_ps
#elif BITS == 256
#define INTRINSIC(name) _mm256_##name##_pd
#endif

/* `count` numbers, followed by zeros. */
INLINE V load(const REAL *from, long count) {
    if (count >= LANES)
        return *(const unaligned *)from;
#if BITS == 512
    return INTRINSIC(maskz_loadu)((1u << count) - 1, from);
#else
    V v = {0};
    memcpy(&v, from, count * sizeof(REAL));
    return v;
#endif
}

INLINE void store(REAL *to, V v, long count) {
    if (count >= LANES)
        *(unaligned *)to = v;
    else
#if BITS == 512
        INTRINSIC(mask_storeu)(to, (1u << count) - 1, v);
#else
        memcpy(to, &v, count * sizeof(REAL));
#endif
}

INLINE V absolute(V v) {
    return (V)((I)v & MAGNITUDE);
}

/* The magnitude of a with the sign of b. */
INLINE V with_sign(V a, V b) {
    return (V)(((I)a & MAGNITUDE) | ((I)b & ~MAGNITUDE));
}

INLINE V maximum(V a, V b) {
#if BITS > 128
    return INTRINSIC(max)(a, b);
#else
    I larger = a > b;
    return (V)((larger & (I)a) | (~larger & (I)b));
#endif
}

/* A bit for each lane of a that is at least `limit`. */
INLINE unsigned reaches(V a, REAL limit) {
#if BITS == 512
    return COMPARE(a, INTRINSIC(set1)(limit), _CMP_GE_OQ);
#elif BITS == 256
    return INTRINSIC(movemask)(INTRINSIC(cmp)(a, INTRINSIC(set1)(limit), _CMP_GE_OQ));
#else
    unsigned bits = 0;
    for (long l = 0; l < LANES; l++)
        bits |= (unsigned)(a[l] >= limit) << l;
    return bits;
#endif
}

/* max(a, |b|) for a >= 0. */
INLINE V maximum_size(V a, V b) {
#if BITS == 512
    return INTRINSIC(range)(a, b, 0xB);
#else
    return maximum(a, absolute(b));
#endif
}

INLINE REAL largest_lane(V v) {
#if BITS == 512
    return INTRINSIC(reduce_max)(v);
#else
    REAL largest = v[0];
    for (long l = 1; l < LANES; l++)
        largest = v[l] > largest ? v[l] : largest;
    return largest;
#endif
}

INLINE REAL sum_of_lanes(V v) {
#if BITS == 512
    return INTRINSIC(reduce_add)(v);
#else
    REAL sum = v[0];
    for (long l = 1; l < LANES; l++)
        sum += v[l];
    return sum;
#endif
}

/* Products below 1e-38 cost an exception each unless flushed to 0; returns what `unflush` restores. */
INLINE unsigned flush(void) {
#ifdef __SSE__
    unsigned before = __builtin_ia32_stmxcsr();
    __builtin_ia32_ldmxcsr(before | 0x8040);
    return before;
#else
    return 0;
#endif
}

INLINE void unflush(unsigned before) {
#ifdef __SSE__
    __builtin_ia32_ldmxcsr(before);
#endif
}
