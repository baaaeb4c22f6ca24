#define POCKETVLM_ISA avx2
#include "peak/peak_kernel.h"
