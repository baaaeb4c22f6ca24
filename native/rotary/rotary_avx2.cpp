#define POCKETVLM_ISA avx2
#include "rotary/rotary_kernel.h"
