#define POCKETVLM_ISA avx2
#include "conv/conv_kernel.h"
