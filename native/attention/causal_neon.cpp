#define POCKETVLM_ISA neon
#include "attention/causal_kernel.h"
