#define BITS 128
#define PRECISION 32
#define NAME baseline_float
#include "distance.h"
