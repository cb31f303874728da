#!lua flags=allow-cross-slot-keys
-- Begin the rebuild of an absent timeline (rule 3). Common: ttl in seconds. Items: key, token, floor. 1 begun, 0 not.
local answer = {}
for place = 3, #ARGV, 3 do
  local key, token, floor = ARGV[place], ARGV[place + 1], ARGV[place + 2]
  local there = redis.pcall('EXISTS', key)
  if type(there) == 'table' then
    answer[#answer + 1] = there
  elseif there == 1 then
    answer[#answer + 1] = 0
  else
    redis.call('RPUSH', key, '!' .. token .. ':' .. floor)
    redis.call('EXPIRE', key, ARGV[2])
    answer[#answer + 1] = 1
  end
end
return answer
