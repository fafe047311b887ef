/* The gradient for p = inf. */

enum { ROWS = 16 };

struct scatter {
    const REAL *grad, *x, *w;
    const int *index;
    REAL *gx, *gw;
    long B, m, n;
};

static long scatter_tasks(const struct scatter *s) {
    return (s->gx ? (s->B + ROWS - 1) / ROWS : 0) + (s->gw ? (s->m + ROWS - 1) / ROWS : 0);
}

/* ROWS rows of gx or, behind those, of gw: each is written by one thread, in one order. */
static void scatter(const void *arguments, long i) {
    const struct scatter *s = arguments;
    const long n = s->n, of_x = s->gx ? (s->B + ROWS - 1) / ROWS : 0;
    const int to_x = i < of_x;
    const long start = ROWS * (to_x ? i : i - of_x), rows = to_x ? s->B : s->m;
    const long end = least_of(start + ROWS, rows);
    memset((to_x ? s->gx : s->gw) + start * n, 0, (end - start) * n * sizeof(REAL));
    for (long b = to_x ? start : 0; b < (to_x ? end : s->B); b++)
        for (long j = to_x ? 0 : start; j < (to_x ? s->m : end); j++) {
            long k = s->index[b * s->m + j];
            REAL d = s->x[b * n + k] - s->w[j * n + k], t = s->grad[b * s->m + j];
            t = d < 0 ? -t : d == 0 ? 0 : t;
            if (to_x)
                s->gx[b * n + k] += t;
            else
                s->gw[j * n + k] -= t;
        }
}
