#ifdef __x86_64__
#define BITS 256
#define PRECISION 64
#define NAME avx2_double
#include "distance.h"
#endif
