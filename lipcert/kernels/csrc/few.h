/* Exponents so large that few differences of a tile count: those are picked out, and their powers handed on singly. */

struct tile {
    const float *const *x, *const *w;
    long n;
    struct scale to[PAIRS];
    float *sums;                  /* of the powers of each pair; unless null, in which case these take */
    float *const *gx, *const *gw; /* the gradients, powers */
    const float *grad;            /* times these */
};

enum { ROOM = 512 };

/* Differences of a tile; `at` holds column * PAIRS + pair. */
struct picked {
    unsigned at[ROOM + LANES];
    float difference[ROOM + LANES], power[ROOM + LANES];
};

static void hand_on(struct picked *p, long held, const struct tile *t, float exponent) {
    for (long l = 0; l < held; l++) {
        const unsigned pair = p->at[l] % PAIRS, k = p->at[l] / PAIRS;
        const float d = t->x[pair / TJ][k] - t->w[pair % TJ][k];
        p->difference[l] = d;
        p->power[l] = (fabsf(d) - t->to[pair].scale) * t->to[pair].inverse;
    }
    for (long l = 0; l < held; l += LANES)
        store(p->power + l, powers_near_one(load(p->power + l, held - l), exponent), LANES);
    for (long l = 0; l < held; l++) {
        const unsigned pair = p->at[l] % PAIRS, k = p->at[l] / PAIRS;
        if (t->sums) {
            t->sums[pair] += p->power[l];
            continue;
        }
        const float slope = copysignf(p->power[l], p->difference[l]) * t->grad[pair];
        t->gx[pair / TJ][k] += slope;
        t->gw[pair % TJ][k] -= slope;
    }
}

/* `largest` has the maxima of the blocks. Those of interest are listed first: branches would be guessed wrong. */
static void few_of_tile(const struct tile *t, const V (*largest)[PAIRS], float exponent) {
    const long columns = block_columns(t->n), blocks = (t->n + columns - 1) / columns;
    unsigned list[BLOCKS * PAIRS + 1], listed = 0;
    for (unsigned pair = 0; pair < PAIRS; pair++)
        for (unsigned b = 0; b < blocks; b++) {
            list[listed] = b * PAIRS + pair;
            listed += reaches(largest[b][pair], t->to[pair].limit) != 0;
        }
    I lanes;
    for (int l = 0; l < LANES; l++)
        lanes[l] = l * PAIRS;
    struct picked p;
    long held = 0;
    for (unsigned i = 0; i < listed; i++) {
        const unsigned pair = list[i] % PAIRS;
        const long start = list[i] / PAIRS * columns, end = least_of(start + columns, t->n);
        const float *x = t->x[pair / TJ], *w = t->w[pair % TJ];
        const float limit = t->to[pair].limit;
        I at = lanes + (int)(start * PAIRS + pair);
        for (long k = start; k < end; k += LANES, at += (int)(LANES * PAIRS)) {
            const V size = absolute(load(x + k, end - k) - load(w + k, end - k));
            held += pack((float *)p.at + held, (V)at, reaches(size, limit));
            if (held > ROOM) {
                hand_on(&p, held, t, exponent);
                held = 0;
            }
        }
    }
    hand_on(&p, held, t, exponent);
}
