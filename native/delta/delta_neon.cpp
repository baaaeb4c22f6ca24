#define POCKETVLM_ISA neon
#include "delta/delta_kernel.h"
