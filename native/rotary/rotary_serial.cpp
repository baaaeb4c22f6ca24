#define POCKETVLM_ISA serial
#include "rotary/rotary_kernel.h"
