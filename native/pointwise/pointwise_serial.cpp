#define POCKETVLM_ISA serial
#include "pointwise/pointwise_kernel.h"
