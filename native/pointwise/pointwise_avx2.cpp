#define POCKETVLM_ISA avx2
#include "pointwise/pointwise_kernel.h"
