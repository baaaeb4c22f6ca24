#define POCKETVLM_ISA neon
#include "linear/linear_kernel.h"
