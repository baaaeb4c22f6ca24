#define POCKETVLM_ISA neon
#include "norm/norm_kernel.h"
