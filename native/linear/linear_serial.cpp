#define POCKETVLM_ISA serial
#include "linear/linear_kernel.h"
