#define POCKETVLM_ISA neon
#include "pointwise/pointwise_kernel.h"
