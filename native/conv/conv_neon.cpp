#define POCKETVLM_ISA neon
#include "conv/conv_kernel.h"
