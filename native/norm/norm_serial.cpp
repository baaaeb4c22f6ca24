#define POCKETVLM_ISA serial
#include "norm/norm_kernel.h"
