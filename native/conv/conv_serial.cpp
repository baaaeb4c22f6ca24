#define POCKETVLM_ISA serial
#include "conv/conv_kernel.h"
