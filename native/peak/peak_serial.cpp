#define POCKETVLM_ISA serial
#include "peak/peak_kernel.h"
