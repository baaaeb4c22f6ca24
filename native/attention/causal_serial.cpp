#define POCKETVLM_ISA serial
#include "attention/causal_kernel.h"
