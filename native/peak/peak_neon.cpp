#define POCKETVLM_ISA neon
#include "peak/peak_kernel.h"
