#define POCKETVLM_ISA avx512
#include "pointwise/pointwise_kernel.h"
