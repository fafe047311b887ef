#ifdef __x86_64__
#define BITS 512
#define PRECISION 32
#define NAME avx512_float
#include "distance.h"
#endif
