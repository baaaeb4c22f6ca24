#define POCKETVLM_ISA serial
#include "delta/delta_kernel.h"
