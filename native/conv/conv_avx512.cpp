#define POCKETVLM_ISA avx512
#include "conv/conv_kernel.h"
