#ifdef __x86_64__
#define BITS 512
#define PRECISION 64
#define NAME avx512_double
#include "distance.h"
#endif
