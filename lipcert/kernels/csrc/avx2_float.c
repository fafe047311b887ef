#ifdef __x86_64__
#define BITS 256
#define PRECISION 32
#define NAME avx2_float
#include "distance.h"
#endif
