#define BITS 128
#define PRECISION 64
#define NAME baseline_double
#include "distance.h"
