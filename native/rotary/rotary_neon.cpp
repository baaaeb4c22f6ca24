#define POCKETVLM_ISA neon
#include "rotary/rotary_kernel.h"
