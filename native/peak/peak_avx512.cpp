#define POCKETVLM_ISA avx512
#include "peak/peak_kernel.h"
