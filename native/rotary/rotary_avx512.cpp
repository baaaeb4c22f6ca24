#define POCKETVLM_ISA avx512
#include "rotary/rotary_kernel.h"
