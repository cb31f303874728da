#!lua flags=allow-cross-slot-keys
-- Insert ids into timelines (rule 1). Common: capacity, slack. Items: key, id. 0 cold, 1 done.
local answer = {}
local n = 0
for place = 4, #ARGV, 2 do
  local key, id = ARGV[place], ARGV[place + 1]
  local head = redis.pcall('LINDEX', key, 0)
  n = n + 1
  if not head then
    answer[n] = 0
  elseif type(head) == 'table' then
    answer[n] = head
  else
    insert(key, id, head)
    answer[n] = 1
  end
end
return answer
